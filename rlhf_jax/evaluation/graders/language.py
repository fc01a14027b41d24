"""The language of a text, by its script and its most frequent words."""

import collections
import re
import unicodedata

# Scripts of one language that is likely.
ALONE = {
    "KANNADA": "kn", "TELUGU": "te", "TAMIL": "ta", "GUJARATI": "gu", "GURMUKHI": "pa",
    "BENGALI": "bn", "MALAYALAM": "ml", "THAI": "th", "HANGUL": "ko", "HIRAGANA": "ja",
    "KATAKANA": "ja", "CJK": "zh", "GREEK": "el", "HEBREW": "he",
}  # fmt: skip
# Frequent words of each language, and letters that others of its script do not have.
WORDS = {
    "LATIN": {
        "en": ("the of and to in is that it was for on are with as his they be at this have from "
               "or had by not but what all were when we there can an your which their if will how "
               "you i he she my me do so no has would been", ""),
        "de": ("der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als "
               "auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie "
               "einem über so zum ich wir ihr aber oder kann", "ß"),
        "fr": ("de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se "
               "ce il sont avec son elle nous vous je mais ou cette aux ses être", "œ"),
        "es": ("de la que el en y a los se del las un por con no una su para es al lo como más o "
               "pero sus le ha me si sin sobre este ya entre cuando todo esta ser son", "ñ¿¡"),
        "pt": ("de a o que e do da em um para é com não uma os no se na por mais as dos como mas "
               "foi ao ele das tem à seu sua ou ser quando muito há nos já está eu são", "ãõ"),
        "it": ("di e il la che è in un a per non una sono del si da con le della i al più lo gli "
               "ha come ma anche nel alla dei questo se o ci mi essere delle dal", ""),
        "nl": ("de en van ik te dat die in een hij het niet zijn is was op aan met als voor had er "
               "maar om hem dan zou of wat mijn men dit zo door over ze bij ook", ""),
        "sv": ("och i att det som en på är av för med till den har de inte om ett han men var jag "
               "sig från vi så kan man när år under också efter eller nu", ""),
        "fi": ("ja on ei se että hän oli ovat joka mutta myös kun tai niin ole kuin tämä sen jos "
               "minä sinä me te he voi mukaan vain nyt sekä olla hänen kanssa ovat syntyvät", ""),
        "sw": ("na ya wa kwa ni katika za la kuwa hii huo cha hiyo lakini watu wote yake wake kama "
               "hilo au pia vya si ambayo mtu kila moja yao wao haki sana alikuwa", ""),
        "vi": ("và của là có trong được cho một các không với những người này đã khi đến từ ra "
               "cũng như về để tôi mọi đều bạn",
               "ơưđạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ"),
        "tr": ("ve bir bu da de için ile olarak çok daha olan gibi en kadar ne o değil var ama "
               "sonra her ki mi ya olduğu", "ığş"),
        "id": ("yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena "
               "ada orang oleh atau sebagai kami mereka dia semua", ""),
        "pl": ("i w na nie z się do to że jest o jak po co za od ale są przez czy dla tym już był "
               "jego oraz które przy", "łżźśęą"),
    },
    "CYRILLIC": {
        "ru": ("и в не на что я с он а как это по но они к у все так за то из же от вы мы для бы "
               "было есть или их его она если", "ыэё"),
        "bg": ("и на да се в за не от е са с по че ще като това си до които но или към при един "
               "тя той те всички съм има може", ""),
        "uk": ("і в на не що з та до як це я у за він але ми для від є або їх його вони", "іїєґ"),
    },
    "DEVANAGARI": {
        "hi": ("है के में की और का को से हैं यह एक पर कि नहीं भी था ने लिए इस हो कर जो तो वह कोई "
               "अपने सभी मैं आप", ""),
        "mr": ("आहे आणि आहेत या ते व नाही हे मध्ये ही तो तर मी होते एक आपण त्यांना करून च्या "
               "सर्व आम्ही काही", "ळ"),
        "ne": ("छ र हो को मा छन् यो पनि लाई गर्न भएको एक गरेको हुन् त्यो लागि थियो तर हरू म सबै "
               "हुन्छ छैन", ""),
    },
    "ARABIC": {
        "ar": ("في من على أن إلى هذا هذه لا ما التي الذي عن مع كان هو هي أو كل ذلك بعد و أنا",
               "ةىإأؤ"),
        "fa": ("و در به از که این است را با برای آن یک خود تا بر هم می شود شده ما من های اند",
               "پچژگ"),
        "ur": ("کے میں کی ہے اور سے کا کو اس یہ ہیں کہ نے پر بھی ایک تھا ہو نہیں جو تو کیا آپ",
               "ٹڈڑےںھہ"),
    },
}  # fmt: skip
TABLES = {
    script: {name: (set(words.split()), set(marks)) for name, (words, marks) in languages.items()}
    for script, languages in WORDS.items()
}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language of most of a text; None where it cannot be told.

    The script of most letters decides. Among the languages of one script, the one with the highest
    (words among its frequent ones) / words + (letters of its own) / letters wins. It knows 31
    languages, among them all of IFEval's.
    """
    letters = [letter for letter in text.lower() if letter.isalpha()]
    scripts = collections.Counter(_script(letter) for letter in letters)
    if not scripts:
        return None
    script = scripts.most_common(1)[0][0]
    if script == "CJK" and scripts["HIRAGANA"] + scripts["KATAKANA"] > 0:
        return "ja"
    if script not in TABLES:
        return ALONE.get(script)
    words = re.findall(r"[^\s\d.,;:!?\"()\[\]{}।॥،؛؟…—–\-*_#/«»“”„'’]+", text.lower())
    scores = {}
    for language, (frequent, marks) in TABLES[script].items():
        known = sum(word in frequent for word in words) / max(1, len(words))
        scores[language] = known + sum(letter in marks for letter in letters) / len(letters)
    best = max(scores, key=scores.get)
    return best if scores[best] > 0 else None


def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0]
