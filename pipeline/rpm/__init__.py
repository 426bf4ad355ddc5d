"""RPM packages and their repository: built by rpmbuild and createrepo_c from a base, signed by nobody who builds."""
