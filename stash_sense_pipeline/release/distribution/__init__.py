"""What happens to published releases."""
