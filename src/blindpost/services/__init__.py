"""The rules of the post office. Services open transactions and decide; repositories only read and write."""
