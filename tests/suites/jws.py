"""Wycheproof's vectors of JSON Web Signatures, given to the verifier of tokens."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panels_gateway.access.keys import Keyring, _load_jwk, _UnusableKeyError
from panels_gateway.access.tokens import TokenError, TokenRules, TokenVerifier
from tests.suites.verdicts import Verdicts, parser, refuse

FILE = "testvectors_v1/json_web_signature_test.json"
REASONS = {
    "ps*": "PS256, PS384 and PS512 are not offered",
    "rfc7520*-Figure20-*": "PS256 is not offered",
    "rfc7520*-Figure27-*": "the key is for the algorithm ES521, which no standard knows",
    "*-emptyPayload-*": "a token without claims is none",
    "base64-invalidBase64Padding*": "the text is the very one of ValidMac-357, which must be accepted",
    "base64-InvalidCharacterInserted*": "a character outside base64url is refused, which the suite allows",
}


def accepts(jwk: dict[str, Any], jws: object) -> bool:
    """Whether a token with this text would have a valid signature under this key alone."""
    try:
        keyring = Keyring([_load_jwk(jwk, ())])
        TokenVerifier(keyring, TokenRules(), clock=lambda: 0.0)._verify_signature(str(jws))
    except (TokenError, _UnusableKeyError):
        return False
    return True


def judge(vectors: dict[str, Any]) -> Verdicts:
    """All tests of all groups."""
    verdicts = Verdicts("jws", REASONS)
    for group in vectors["testGroups"]:
        jwk = group.get("public", group.get("private"))
        for test in group["tests"]:
            accepted = accepts(jwk, test["jws"])
            verdicts.add(
                f"{group['comment']}-{test['comment']}-{test['tcId']}",
                met=accepted == (test["result"] == "valid"),
                group="must be accepted" if test["result"] == "valid" else "must be refused",
                got="accepted" if accepted else "refused",
            )
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite."""
    made = parser("jws", __doc__)
    made.add_argument("checkout", type=Path, help="a checkout of C2SP/wycheproof")
    options = made.parse_args(arguments)
    path = options.checkout / FILE
    if not path.is_file():
        return refuse(f"expected {FILE} in {options.checkout}")
    return judge(json.loads(path.read_text())).conclude(document=options.document)


if __name__ == "__main__":
    sys.exit(main())
