"""Compiled parts of training steps on CPUs, which are optional."""
