"""Care of the store: what it holds, what may go, what is damaged. Nothing here follows a link inside the store."""
