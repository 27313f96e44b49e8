"""Secrets that tests plant, and how they are found again, whole or in part, written as they are or as %XX."""

from __future__ import annotations

import re
from urllib.parse import quote

# Each part has a number: of one that is cut at a sign, whatever is shown is found.
PLAIN = "planted1sesame"
WITH_SIGNS = "planted1:planted2/planted3@planted4#planted5?planted6%planted7 planted8'planted9"
QUOTED = quote(WITH_SIGNS, safe="")
ARGS = "planted0args"

_PLANTED = re.compile(r".{0,60}planted\d.{0,60}", re.IGNORECASE)


def found_in(text: str) -> list[str]:
    """Return where a secret shows, with what stands around it."""
    return _PLANTED.findall(text)


# URLs with such a password that lead nowhere, or are none.
NOBODY = "127.0.0.1:1"
BAD_URLS = {
    "nobody listens": f"postgresql://ann:{QUOTED}@{NOBODY}/shop",
    "nobody listens, plain": f"postgres://ann:{PLAIN}@{NOBODY}/shop",
    "the password is an option": f"postgresql://{NOBODY}/shop?user=ann&password={QUOTED}",
    "no such host": f"postgresql://ann:{QUOTED}@no-such-host.invalid:5432/shop",
    "no such option": f"postgresql://ann:{QUOTED}@{NOBODY}/shop?nonsense=1",
    "two hosts": f"postgresql://ann:{QUOTED}@127.0.0.1:1,127.0.0.1:2/shop",
    "signs as they are": f"postgresql://ann:{WITH_SIGNS}@{NOBODY}/shop",
    "a slash as it is": f"postgresql://ann:planted1/planted2@{NOBODY}/shop",
    "an @ as it is": f"postgresql://ann:planted1@planted2@{NOBODY}/shop",
    "a # as it is": f"postgresql://ann:planted1#planted2@{NOBODY}/shop",
    "a ? as it is": f"postgresql://ann:planted1?planted2@{NOBODY}/shop",
    "a bracket as it is": f"postgresql://ann:planted1[planted2]@{NOBODY}/shop",
    "half an escape": f"postgresql://ann:planted1%zzplanted2%@{NOBODY}/shop",
    "an escape of no character": f"postgresql://ann:planted1%ff%00planted2@{NOBODY}/shop",
    "no port": f"postgresql://ann:{QUOTED}@127.0.0.1:port/shop",
    "a port beyond all": f"postgresql://ann:{QUOTED}@127.0.0.1:99999/shop",
    "a mode that is none": f"postgresql://ann:{QUOTED}@{NOBODY}/shop?sslmode=sesame",
    "another database's": f"mysql://ann:{QUOTED}@{NOBODY}/shop",
    "no scheme": f"ann:{PLAIN}@{NOBODY}/shop",
    "a space before it": f" postgresql://ann:{PLAIN}@{NOBODY}/shop",
    "libpq's words": f"host=127.0.0.1 port=1 user=ann password={PLAIN} dbname=shop",
    "libpq's words, quoted": "host=127.0.0.1 port=1 password = 'planted1 planted2 @planted3' dbname=shop",
    "no host": f"postgresql://ann:{PLAIN}",
    "an option with signs": f"postgresql://{NOBODY}/shop?password=planted1#planted2 planted3'planted4",
    "a line break in it": f"postgresql://ann:planted1\nplanted2@{NOBODY}/shop",
}

# URLs of an object store that hold a secret, which belongs into the environment.
BAD_STORE_URLS = {
    "an option": "s3://name?aws_secret_access_key=planted1/planted2+planted3",
    "one option of several": "s3://name/prefix?region=eu&secret_key=planted1&session_token=planted2#planted3",
    "an option in capitals": "s3://name?AWS_SECRET_ACCESS_KEY=planted1",
    "an option named key": "s3://name?key=planted1",
    "an option that is escaped": "s3://name?aws%5Fsecret%5Faccess%5Fkey=planted1",
    "the user": f"s3://ann:{PLAIN}@name/prefix",
    "the user, with a slash as it is": "s3://ann:planted1/planted2@name/prefix",
    "the user of the endpoint": f"s3://name?endpoint_url=http://ann:{PLAIN}@{NOBODY}",
    "the user of the endpoint, escaped": f"s3://name?endpoint_url={quote(f'http://ann:{PLAIN}@{NOBODY}', safe='')}",
    "the query of the endpoint": f"s3://name?endpoint_url=http://{NOBODY}/?token={PLAIN}",
    "a signed link": "https://name.example.com/prefix?X-Amz-Credential=planted1&X-Amz-Signature=planted2",
    "another cloud's": "azure://name/prefix?sig=planted1%2Bplanted2",
    "a file's": "file:./media?secret=planted1",
}
