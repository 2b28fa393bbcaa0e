"""Requests to URLs of strangers: only to public addresses or those that an operator allows, and within bounds."""
