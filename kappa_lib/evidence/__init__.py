"""What runs measured → tables, comparisons, verdicts by rule, and the report."""
