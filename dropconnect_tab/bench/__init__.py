"What judges the library: tables, methods, runs, reports"
