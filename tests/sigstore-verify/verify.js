// node verify.js TRUSTED_ROOT IDENTITY ISSUER BUNDLE...: ends with 0 if the identity signed every bundle.
const fs = require("fs");
const { bundleFromJSON } = require("@sigstore/bundle");
const { TrustedRoot } = require("@sigstore/protobuf-specs");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");

const [trusted, identity, issuer, ...bundles] = process.argv.slice(2);
const read = (path) => JSON.parse(fs.readFileSync(path, "utf8"));
const thresholds = { ctlogThreshold: 1, tlogThreshold: 1, timestampThreshold: 1 };
const verifier = new Verifier(toTrustMaterial(TrustedRoot.fromJSON(read(trusted))), thresholds);
const exactly = `^${identity.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`;
for (const path of bundles) {
  verifier.verify(toSignedEntity(bundleFromJSON(read(path))), {
    subjectAlternativeName: exactly,
    extensions: { issuer },
  });
  console.log(path);
}
