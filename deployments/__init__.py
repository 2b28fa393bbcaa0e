"""What puts Poorwill on a server: the local stack of the demo and the tests, and deployments to real ones."""
