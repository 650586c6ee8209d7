"""Generated from proto/rlserve/v1; never edited. `make proto` writes it."""
