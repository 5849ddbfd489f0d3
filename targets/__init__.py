"""Runtimes that models are built for, opened on and measured on."""
