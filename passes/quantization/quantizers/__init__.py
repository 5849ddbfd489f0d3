"""The libraries' own quantisers, each behind one function."""
