"""The served model and everything between it and the network, in a package name that user code will not use."""
