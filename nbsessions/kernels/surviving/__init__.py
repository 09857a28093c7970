"""Local kernels that outlive their server, and are adopted by the next one."""
