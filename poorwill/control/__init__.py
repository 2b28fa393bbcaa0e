"""The control side: drives an engine, holds the store's keys, writes what commits a snapshot."""
