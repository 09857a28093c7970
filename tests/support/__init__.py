"""What tests share: real servers, and the means to break them."""
