"""Requests to URLs that somebody else chose: public addresses only, or what an operator allows; bounded in all ways."""
