"""The files of a store: one module a format, none of which knows another."""
