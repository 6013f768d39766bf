"""What ``syncline doctor`` says of a database before anything in it is touched: facts read, findings, a report."""
