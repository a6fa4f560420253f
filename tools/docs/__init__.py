"""Write the generated documents."""
