"""What was issued, made, stamped and audited, with a history that shows tampering."""
