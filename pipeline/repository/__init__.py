"""A repository of packages that a distributor keeps: releases are merged into it, and it is checked as a whole."""
