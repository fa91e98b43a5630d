"""What the page says, in English and in Russian."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The page in one language; `{...}` are filled in where a text is shown."""

    introduction: str
    audio: str
    text: str
    text_hint: str
    button: str
    result: str
    timeline: str
    timeline_hint: str
    columns: tuple[str, str, str, str]
    examples: str
    notice: str
    emotions: dict[str, str]
    refused: str
    please_note: str
    nothing_given: str
    text_too_long: str
    file_too_large: str
    recording_too_long: str
    silent: str
    cancelled: str
    quiet: str
    text_unused: str
    unreadable: str


TEXTS = {
    "en": Texts(
        introduction="Which of seven emotions do a voice and its words express? For speech in English and in Russian. "
        "Give a recording, a text, or both.",
        audio="Recording",
        text="What is said (optional)",
        text_hint="In English or Russian; a text alone will do, too",
        button="Recognise",
        result="Emotion",
        timeline="Over time",
        timeline_hint="Judged in windows of {window:g} s; neighbours with the same result are joined. The bars show the mean over time.",
        columns=("from", "to", "emotion", "score"),
        examples="Examples (synthetic speech)",
        notice="""**Please note.** The scores say how speech sounds to the people who labelled the training data, not what anybody feels.
They are often wrong, and more so for voices, accents and recordings unlike those the model was trained on. Do not take decisions about
people with them. In the European Union, inferring emotions at the workplace and in education is prohibited with narrow exceptions
(AI Act, Article 5), and people whose emotions are inferred elsewhere must be told. Record others only with their consent.

**Your data.** Recordings and texts are processed on the server of this page and passed to nobody. Files are deleted within an hour. At most
{megabytes} MB and {minutes} minutes a recording, {characters} characters a text.""",
        emotions={
            "anger": "anger",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happy",
            "neutral": "neutral",
            "sad": "sad",
            "surprise": "surprise",
        },
        refused="This does not work",
        please_note="Please note",
        nothing_given="There is nothing to judge yet. Record or upload a clip, or write a text.",
        text_too_long="The text has {given} characters; at most {allowed} are allowed. Shorten it.",
        file_too_large="The file has {given:.1f} MB; at most {allowed} MB are allowed. Cut it, or save it as FLAC or MP3.",
        recording_too_long="The recording lasts {given:.1f} minutes; at most {allowed:g} are allowed. Cut it into parts.",
        silent="The recording is silent from its beginning to its end. Check the microphone and record again.",
        cancelled="The channels of the recording cancel each other when they are mixed (one is inverted). Save it with one channel.",
        quiet="The recording is very quiet (peak {peak:.1%} of full scale). The scores mean little; record closer to the microphone.",
        text_unused="The text was not used: of a recording of {seconds:g} s or more, nothing tells when its words are said.",
        unreadable="{message}",
    ),
    "ru": Texts(
        introduction="Какую из семи эмоций выражают голос и слова? Для речи на русском и английском языках. "
        "Дайте запись, текст или и то и другое.",
        audio="Запись",
        text="Что сказано (необязательно)",
        text_hint="На русском или английском; можно и без записи",
        button="Распознать",
        result="Эмоция",
        timeline="По времени",
        timeline_hint="Оценка по окнам в {window:g} с; соседние с одинаковым результатом объединены. Полосы показывают среднее по времени.",
        columns=("от", "до", "эмоция", "оценка"),
        examples="Примеры (синтезированная речь)",
        notice="""**Обратите внимание.** Оценки показывают, как речь звучит для тех, кто размечал обучающие данные, а не то, что человек
чувствует. Они часто ошибочны, особенно для голосов, акцентов и записей, непохожих на обучающие. Не принимайте по ним решений о людях. В
Европейском союзе распознавать эмоции на работе и в учёбе запрещено, за узкими исключениями (Регламент об ИИ, статья 5), а в других
случаях людей необходимо об этом предупреждать. Записывайте других только с их согласия.

**Ваши данные.** Записи и тексты обрабатываются на сервере этой страницы и никому не передаются. Файлы удаляются в течение часа.
Запись: не более {megabytes} МБ и {minutes} минут, текст: не более {characters} знаков.""",
        emotions={
            "anger": "гнев",
            "disgust": "отвращение",
            "fear": "страх",
            "happy": "радость",
            "neutral": "нейтральная",
            "sad": "грусть",
            "surprise": "удивление",
        },
        refused="Так не получится",
        please_note="Обратите внимание",
        nothing_given="Пока нечего оценивать. Запишите или загрузите клип либо напишите текст.",
        text_too_long="В тексте знаков: {given}, допустимо не более {allowed}. Сократите его.",
        file_too_large="Размер файла {given:.1f} МБ, допустимо не более {allowed} МБ. Обрежьте его или сохраните в FLAC или MP3.",
        recording_too_long="Запись длится {given:.1f} мин, допустимо не более {allowed:g}. Разрежьте её на части.",
        silent="В записи тишина от начала до конца. Проверьте микрофон и запишите снова.",
        cancelled="Каналы записи при сведении гасят друг друга (один из них инвертирован). Сохраните её с одним каналом.",
        quiet="Запись очень тихая (пик {peak:.1%} от полной шкалы). Оценки мало что значат; запишите ближе к микрофону.",
        text_unused="Текст не использован: в записи от {seconds:g} с и длиннее неизвестно, когда сказаны его слова.",
        unreadable="Запись не удалось прочитать. Подробности (на английском): {message}",
    ),
}
"""Language -> texts."""

LANGUAGE_NAMES = {"en": "English", "ru": "Русский"}
