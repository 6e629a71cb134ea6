// Nothing: what Node takes to start and end.
