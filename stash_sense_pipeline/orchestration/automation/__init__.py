"""What starts runs, and what tells the operator."""
