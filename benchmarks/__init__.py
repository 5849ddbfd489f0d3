"""Probes that measure candidates side by side, and the statistics behind them."""
