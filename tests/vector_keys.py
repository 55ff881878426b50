"""The keys of the published vectors. They are published too, and protect nothing."""

import base64
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey

from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey

ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", base=16
)
RFC6979: Final = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)

SCALARS: Final = {
    "alice_ecdsa": 0xA11CE01,
    "alice_ecdh": 0xA11CE02,
    "alice_next_ecdsa": 0xA11CE03,
    "bob_ecdsa": 0xB0B01,
    "bob_ecdh": 0xB0B02,
    "mallory_ecdsa": 0x3A110,
    "one_time": 0x0E0E,
    "bob_signed_prekey": 0xB0B03,
    "bob_one_time_prekey": 0xB0B04,
}
PRIVATE: Final = {name: ec.derive_private_key(scalar, ec.SECP384R1()) for name, scalar in SCALARS.items()}
PUBLIC: Final = {name: PublicKey.of(key.public_key()) for name, key in PRIVATE.items()}
ALICE: Final = UUID("0190a1b2-0000-7000-8000-00000000a11c")
BOB: Final = UUID("0190a1b2-0000-7000-8000-000000000b0b")
CAROL: Final = UUID("0190a1b2-0000-7000-8000-0000000ca401")

KEM_SEED: Final = bytes(range(64))
KEM_PUBLIC: Final = KemPublicKey(MLKEM1024PrivateKey.from_seed_bytes(KEM_SEED).public_key().public_bytes_raw())
# Drawn once: the library encapsulates with fresh randomness alone.
KEM_SECRET: Final = bytes.fromhex("edefe8d18e9ac0d87801ce2e11158d0b1792959a3a0fb7761cfd30b2a017cbc4")
KEM_CIPHERTEXT: Final = base64.b64decode(
    "rwp4Ng5l5zfDdb7b7rrdmV0/HS6yaDOGmsUz7DuQxrs8bBjUnpskhJvILHL82GBizHBHdiv+xb64DOZ7NkqWMW2N0YRtZcZah3ku1OarOR/lhZtk"
    "4VRZx1eJrP5mxnAE8R2p5UTptZoPXbKQNp3eYN6BlnmMFtmllKjObLlQ6SL323jenlu2Gu3Xb1ILfysygeazLY20M8lRDbLRMVyZsthoc//fWFxb"
    "l8r2mhYx2Y8a5sCucjj0uNCYYgeF3BqvlngDXGq3SZDMjmAMrJENnICP6EUh+ulrr7u/d1hLV3sCAiW9hNzKpkYRR+Ebu9AyZ3mwym6PDUiWkr5t"
    "ihY8a4uC9vgZ5OFo82KQx9P++8sGyfymHdg/eFHkKj6pKv60TUAVi7SVlw+SUPr7OiOc4wWKsa/ZO+BE5QBwrbfs4ODlK3J4//5PkCLbWM6YKe2S"
    "8tx8+ar2gMs1QoZ46FmteZnLallsDTEpQHSqZOgPy2fYIg+waNLxTUC6P4Zzqs5RzIk3PyyO1d7Nm9VUiE42PAnM0nYJT1Sd4u2W3RrkfiFPDvoZ"
    "reK/Xcq0VzUy4IsLvcUEZjuIGRCo+7jAyAKH6GRtBLULKoLmx6e5hVVGx0u46LAD1H/O0WxdyoHpbK4y7lexTU+D/GFrhvOu7V4bFIFoIe5UCWXa"
    "8AzO8116H1NE61bR2wXF40iMXcaW4XDRcKpLTCDkJyE8f95xvmje9JB5Z8RSg3T2pMVLkHVv10Eh6c0CgEfFCdQ8KbZBkNkqV09Zx7q9Q0D+Wr8U"
    "GwTftzRyT+BukOs5ZD+NI/ITbftq6ILMfFq1TVGZ2W8oxE2THzsGlnvsEs60xRD0FXAbgQTZJjmxvxWpBXzq1XVRU3nqjD+LpOfo4TDvcR5pXHHo"
    "GnpO1+wiUq/P84hGDI1qR5rt7mz60OGU7miZhokXVPbx+uoU3UfANfZBK2Qwwu4WfaXRlyULT1IOcwpAhotBYID2PkDe6WSA4uedCCXzw97QkBKv"
    "5J0fC6zShVtsutUzsNJACfHvK8ue1Q6TyTfjCEPJuVaX0luGeGOTLyNjcc1PiBMOpm6KJi6ZPxyVI9ufNOxCbfZuBpu5IYDz4xAd5TRQJdA+j3rO"
    "xdOHxeJ3GVHlMJ7DdXWhINjS5Uo82iJRt2nW6M7eBRBgKeI5rFjPOG3AcoFV9RgZQFBpaqQOzb74ImorUCfNVrYI786OhIpYBGi5OP7albi35KKx"
    "Qu3cHkFnEdIMukLMjhGGtDD6H8Y/+dhJ9vfDTmx81cKAlk1jXwO87EfL/EPNn0akLYgZVfAM1E7xqKvbfCsffG3vGpBy9aAJDu7oPv+PyASu8AXD"
    "qk4qKLLQII2DDlTeraArgPHsZ5ucMNwMGEV38hYp5MEdYts591/wwvVTDTZQa3qcARCRiVst1X5BgwvP/YBs9EI4q05eRKneB6eq+nWpGDhsKfnJ"
    "gquNuQYboTI6Pzh+SR/wJk5F/6pBbdmudwp92JNVU+JYyGNfbaCSyAbax0uGth7NZpmWDLLf4krnxPnBUUVkrypqxwhcpwWbyH7QQi5r/gHPWqkp"
    "vvxeKAVUnwFabEsON8lgjHMxOCldiSzspcZ+MLllTkBNQKbFu1LOQ0GFB/RTei/f/suiwXVHWfHMaWtJx/O2AGsXTXS7hxKabvVm4pjcUC2SzmpH"
    "J3mlZ7mA+eMtfIKRYUvfeJALTuk+vm8WfFxS2kmuOlkyMIwqYaKIHiLiGNJeWJn1FvX8/ykTi2MhDEiNumIdasusflogPaZyHH4TG/YFKNA7hXD+"
    "4p9RAUOsNYew1UhdSbvSEksa9BxsscXWeBON0Uko+xSHvMEh6kj+7sS+DohLExBZWu/BmwtcDAMSnceCxuHaqm1vE/yLtdgEai9Ji4sfFCMkpoxt"
    "GSmnnctbSETCKkmdFnVhbhGWw1mhf4aNXmRoQ3jF8Bc3Q4j7NBypQdih+SWNZrg+ctPQHYrH+o7UsB8wSEg1FyWhITGLSsX0xvCOAOL53zQiKvai"
    "iFOebYdb+/OfCsxjz47F1e4ya5B0CyU1sk7TdGGHfvvBLpmhIvv0exVk9EklO3wsvthHFzNR6Gc="
)

Vector = dict[str, Any]


def sign(name: str, data: bytes) -> bytes:
    return PRIVATE[name].sign(data, RFC6979)
