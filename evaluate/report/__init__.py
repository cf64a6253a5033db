"""From cells to results: statistics, tables, figures, the page and its verdict."""
