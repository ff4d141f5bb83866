"""The device graph: its types, its legality table, its executor, its reader and its writer."""
