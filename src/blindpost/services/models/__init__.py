"""The wire objects of the contract, shared by the router and the clients."""
