"""What ``jupyter nbsessions doctor`` looks at: one module per matter."""
