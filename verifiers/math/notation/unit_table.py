"""The table of units of measure and money: each name's dimension, and its size in base units."""

from fractions import Fraction

# One string a dimension, "name:size": readable as a table, and exact, since Fraction reads decimals exactly. Sizes are
# those of the SI and, for feet, pounds and gallons, of the international definitions. A month and a second have
# dimensions of their own, since no fixed number of days is a month. Single letters are case-sensitive ("m", "M").
KNOWN: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(factor))
    for dimension, entries in {
        "length": "nm:1e-9 um:1e-6 mm:0.001 cm:0.01 dm:0.1 m:1 km:1000 in:0.0254 inch:0.0254 inches:0.0254"
        " ft:0.3048 foot:0.3048 feet:0.3048 yd:0.9144 yard:0.9144 mi:1609.344 mile:1609.344 meter:1 metre:1"
        " millimeter:0.001 millimetre:0.001 centimeter:0.01 centimetre:0.01 kilometer:1000 kilometre:1000"
        " decimeter:0.1 decimetre:0.1 micrometer:1e-6 nanometer:1e-9"
        " 毫米:0.001 厘米:0.01 公分:0.01 分米:0.1 米:1 千米:1000 公里:1000 里:500",
        "mass": "mg:1e-6 g:0.001 kg:1 t:1000 gram:0.001 milligram:1e-6 kilogram:1 ton:907.18474 tonne:1000"
        " lb:0.45359237 lbs:0.45359237 pound:0.45359237 oz:0.028349523125 ounce:0.028349523125"
        " 毫克:1e-6 克:0.001 千克:1 公斤:1 斤:0.5 吨:1000",
        "time": "ms:0.001 s:1 sec:1 second:1 min:60 minute:60 h:3600 hr:3600 hour:3600 day:86400 week:604800"
        " millisecond:0.001 秒:1 分钟:60 小时:3600 時間:3600 시간:3600 天:86400 日:86400 周:604800",
        "month": "month:1 mo:1 year:12 yr:12 decade:120 century:1200 月:1 个月:1 年:12",
        "volume": "ml:0.001 mL:0.001 cl:0.01 cL:0.01 dl:0.1 l:1 L:1 liter:1 litre:1 milliliter:0.001"
        " millilitre:0.001 gal:3.785411784 gallon:3.785411784 quart:0.946352946 pint:0.473176473 毫升:0.001 升:1",
        "money USD": "dollar:1 dollars:1 USD:1 usd:1 buck:1 cent:0.01 penny:0.01 pennies:0.01 美元:1",
        "money EUR": "euro:1 EUR:1 欧元:1", "money GBP": "pounds:1 GBP:1 英镑:1",
        "money INR": "rupee:1 Rs:1 INR:1 rs:1", "money CNY": "CNY:1 RMB:1 yuan:1 元:1 人民币:1 角:0.1",
        "money JPY": "JPY:1 円:1 日元:1", "money": "yen:1", "money KRW": "won:1 KRW:1 원:1",
        "money RUB": "ruble:1 RUB:1 \u0440\u0443\u0431\u043b\u0435\u0439:1 \u0440\u0443\u0431:1",
        "money CHF": "CHF:1", "money KR": "kr:1 kronor:1", "money AUD": "AUD:1", "money CAD": "CAD:1",
        "angle": "degree:1 deg:1 度:1 °:1", "radian": "rad:1 radian:1 弧度:1",
        "celsius": "celsius:1", "fahrenheit": "fahrenheit:1", "kelvin": "kelvin:1 K:1",
        "frequency": "Hz:1 hertz:1 kHz:1000 MHz:1e6",
        "energy": "J:1 joule:1 kJ:1000 kilojoule:1000 cal:4.184 kcal:4184 calorie:4.184 Wh:3600 kWh:3600000"
        " eV:1.602176634e-19",
        "power": "W:1 watt:1 kW:1000 kilowatt:1000 MW:1e6 hp:745.7",
        "force": "N:1 newton:1 kN:1000", "pressure": "Pa:1 pascal:1 kPa:1000 atm:101325 bar:100000",
        "voltage": "V:1 volt:1", "current": "A:1 ampere:1 amp:1 mA:0.001", "charge": "C:1 coulomb:1",
        "resistance": "ohm:1", "amount": "mol:1 mole:1", "data": "byte:1 B:1 KB:1000 MB:1e6 GB:1e9 bit:0.125",
    }.items()
    for name, _, factor in (entry.partition(":") for entry in entries.split())
}  # fmt: skip
COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "cc": "cm^3", "sqft": "ft^2", "mps": "m/s"}
CJK_POWERS = {"平方": 2, "立方": 3}
"""Square and cubic, in front of a unit of length."""
CURRENCIES = {
    "dollar": "dollar", "euro": "euro", "pounds": "pounds", "yen": "yen", "rupee": "rupee", "won": "won",
    "ruble": "ruble", "USD": "USD", "US\\dollar": "USD", "EUR": "EUR", "GBP": "GBP", "INR": "INR", "CNY": "CNY",
    "RMB": "RMB", "JPY": "JPY", "KRW": "KRW", "RUB": "RUB", "CHF": "CHF", "AUD": "AUD", "CAD": "CAD", "Rs": "Rs",
    "A\\dollar": "AUD", "C\\dollar": "CAD",
}  # fmt: skip
"""The spelling of a currency beside its number, and its name in the table above."""


def known(name: str) -> tuple[str, Fraction] | None:
    """Return dimension and size of the unit ``name``, also in the plural or with capitals; None for other words."""
    if len(name) == 1:
        return KNOWN.get(name)
    for spelling in (name, name.lower(), name.lower().removesuffix("s"), name.lower().removesuffix("es")):
        if spelling in KNOWN:
            return KNOWN[spelling]
    return None


def is_unit(word: str) -> bool:
    """True for a known unit of more than two letters, such as ``miles``. ``kg`` is left to the reader."""
    name = word.lower()
    return len(name) > 2 and any(spelling in KNOWN for spelling in (name, name.removesuffix("s"), name[:-2]))
