"""The proof of a candidate: build it again under other circumstances, and judge every artifact."""
