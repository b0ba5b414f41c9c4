"""Ahead of time: what a config needs of a pod, from compiling for one."""
