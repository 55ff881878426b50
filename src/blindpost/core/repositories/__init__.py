"""One room per domain. A repository takes a connection or transaction, reads or writes, and never commits."""
