"""Looks at all that a configuration names, before anything starts: files, plug-ins, ports, without torch."""
