"""Programs behind every claim of speed: each measures here and now, beside what it is compared with."""
