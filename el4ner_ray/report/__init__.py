"""A finished run as one HTML file that needs no network: its figures, its texts with their entities, its errors."""
