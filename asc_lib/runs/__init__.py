"""What is run, the records that runs leave, and the tables drawn from them."""
