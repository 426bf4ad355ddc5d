"""What checks a release, from the standard library and `openssl` alone, in the oldest Python that hosts have (3.9).

`rfo-verify` is these modules joined into one file; `inv verify` and the signer call them. They open no socket, import
nothing of the engine, and hold every rule by which a file is accepted.
"""
