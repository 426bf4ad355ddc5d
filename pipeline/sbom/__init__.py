"""SBOMs: SPDX 2.3 documents of images, tarballs and releases, from locks and from the bytes themselves.

`facts` are the values, `files`, `packages`, `licences` and `gather` find them, `document` and `overview` write them
down, `actions` are the steps of a release. Format: https://spdx.github.io/spdx-spec/v2.3/.
"""
