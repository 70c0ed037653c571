"""The cut: a fate for every row, by SQL over the ledger."""
