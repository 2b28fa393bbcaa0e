"""What a snapshot is: names, tables, encoding, planning. Pure: nothing here opens a file or a socket."""
