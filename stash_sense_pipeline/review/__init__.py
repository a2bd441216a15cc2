"""The review: decisions that only the operator can make, their answers, and the local page that shows them."""
