"""What the page says, in English and in Russian."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The page in one language; `{...}` are filled in where a text is shown."""

    introduction: str
    model: str
    trained_on: str
    synthetic: str
    score: str
    percent: str
    audio: str
    upload: str
    microphone: str
    text: str
    text_hint: str
    button: str
    working: str
    result: str
    voice: str
    words: str
    timeline: str
    timeline_hint: str
    subtitles: str
    table: str
    columns: tuple[str, str, str, str, str]
    examples: str
    notice: str
    emotions: dict[str, str]
    decimal_point: str
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

    def emotion(self, label: str) -> str:
        """The name of a label; one that is none of the seven is shown as it is."""
        return self.emotions.get(label, label)

    def number(self, value: float) -> str:
        """A number with one decimal place."""
        return f"{value:.1f}".replace(".", self.decimal_point)


TEXTS = {
    "en": Texts(
        introduction="Which emotion does a voice express, and which do its words? Upload or record speech in English "
        "or Russian, type what is said, or do both.",
        model="Model: {name}",
        trained_on="Trained on: {corpora}",
        synthetic="synthetic speech",
        score="Average recall on the test set (UAR): {score}, chance level {chance}",
        percent="{}%",
        audio="Recording",
        upload="Upload a file",
        microphone="Use the microphone",
        text="Words (optional)",
        text_hint="What is said, in English or Russian. A text without a recording works too.",
        button="Recognize",
        working="Analyzing the recording",
        result="Emotion",
        voice="Voice alone",
        words="Words alone",
        timeline="Over time",
        timeline_hint="One band per emotion: its height is the smoothed probability, and it is solid where that "
        "emotion is the strongest. On the right, the mean over the recording. The model listens to {window:g} s at a "
        "time; the table joins neighboring stretches with the same result.",
        subtitles="Subtitles (SRT)",
        table="Table (CSV)",
        columns=("from", "to", "emotion", "score", "words"),
        examples="Examples (synthetic speech)",
        notice="**Please note.** The scores describe how speech sounds to the people who labeled the training data, "
        "not what a person feels. They are often wrong, especially for voices, accents and recordings unlike the "
        "training data. Do not base decisions about people on them. In the European Union, inferring emotions at work "
        "and in education is prohibited, with narrow exceptions (AI Act, Article 5); in other settings, people must "
        "be informed that it is done. Record other people only with their consent.\n\n"
        "**Your data.** Recordings and texts are processed on the server of this page and shared with nobody. Files "
        "are deleted within an hour. Limits: {megabytes} MB and {minutes} minutes per recording, {characters} "
        "characters per text.",
        emotions={
            "anger": "anger",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happy",
            "neutral": "neutral",
            "sad": "sad",
            "surprise": "surprise",
        },
        decimal_point=".",
        refused="That did not work",
        please_note="Please note",
        nothing_given="There is nothing to analyze yet. Upload or record a clip, or type a text.",
        text_too_long="The text is {given} characters long; the limit is {allowed}. Please shorten it.",
        file_too_large="The file has {given} MB; the limit is {allowed} MB. Cut it, or save it as FLAC or MP3.",
        recording_too_long="The recording lasts {given} minutes; the limit is {allowed:g}. Cut it into parts.",
        silent="The recording is silent from start to end. Check the microphone and record again.",
        cancelled="The channels of the recording cancel each other out when mixed (one is inverted). Save it with one "
        "channel.",
        quiet="The recording is very quiet (peak at {peak} of full scale), so the scores mean little. Record closer "
        "to the microphone.",
        text_unused="The text was not used: in a recording of {seconds:g} s or more, it is not known when its words "
        "are said.",
        unreadable="{message}",
    ),
    "ru": Texts(
        introduction="Какую эмоцию выражает голос, а какую — слова? Загрузите или запишите речь на русском или "
        "английском, введите текст сказанного или сделайте и то и другое.",
        model="Модель: {name}",
        trained_on="Обучающие данные: {corpora}",
        synthetic="синтезированная речь",
        score="Средняя полнота на тестовых данных (UAR): {score}, случайный уровень {chance}",
        percent="{}\N{NO-BREAK SPACE}%",
        audio="Запись",
        upload="Загрузить файл",
        microphone="С микрофона",
        text="Слова (необязательно)",
        text_hint="Что сказано, на русском или английском. Можно ввести только текст, без записи.",
        button="Распознать",
        working="Анализируем запись",
        result="Эмоция",
        voice="Только голос",
        words="Только слова",
        timeline="Как менялись эмоции",
        timeline_hint="Каждой эмоции соответствует своя полоса: её высота — сглаженная вероятность, а сплошной цвет "
        "показывает, где эта эмоция сильнее остальных. Справа — среднее по записи. Модель слушает по {window:g} с; в "
        "таблице соседние фрагменты с одинаковым результатом объединены.",
        subtitles="Субтитры (SRT)",
        table="Таблица (CSV)",
        columns=("от", "до", "эмоция", "оценка", "слова"),
        examples="Примеры (синтезированная речь)",
        notice="**Обратите внимание.** Оценки показывают, как речь звучит для людей, размечавших обучающие данные, а "
        "не то, что человек чувствует на самом деле. Они часто ошибочны, особенно если голос, акцент или запись "
        "непохожи на обучающие данные. Не принимайте на их основе решений о людях. В Европейском союзе распознавать "
        "эмоции на работе и в учебных заведениях запрещено, за редкими исключениями (Регламент об ИИ, статья 5), а в "
        "остальных случаях людей нужно об этом предупреждать. Записывайте других людей только с их согласия.\n\n"
        "**Ваши данные.** Записи и тексты обрабатываются на сервере этой страницы и никому не передаются. Файлы "
        "удаляются в течение часа. Ограничения: запись — до {megabytes} МБ и {minutes} минут, текст — до {characters} "
        "знаков.",
        emotions={
            "anger": "гнев",
            "disgust": "отвращение",
            "fear": "страх",
            "happy": "радость",
            "neutral": "нейтрально",
            "sad": "грусть",
            "surprise": "удивление",
        },
        decimal_point=",",
        refused="Не получилось",
        please_note="Обратите внимание",
        nothing_given="Пока нечего анализировать. Загрузите или запишите речь либо введите текст.",
        text_too_long="Текст слишком длинный: знаков {given}, допустимо не более {allowed}. Сократите его.",
        file_too_large="Файл слишком большой: {given} МБ, допустимо не более {allowed} МБ. Обрежьте его или сохраните "
        "в формате FLAC или MP3.",
        recording_too_long="Запись слишком длинная: {given} мин, допустимо не более {allowed:g}. Разрежьте её на "
        "части.",
        silent="В записи тишина от начала до конца. Проверьте микрофон и запишите ещё раз.",
        cancelled="При сведении каналы записи гасят друг друга (один из них инвертирован). Сохраните её с одним "
        "каналом.",
        quiet="Запись очень тихая (пик {peak} от полной шкалы), поэтому на оценки нельзя полагаться. Запишите речь "
        "ближе к микрофону.",
        text_unused="Текст не учтён: если запись длится {seconds:g} с или дольше, неизвестно, когда сказаны его слова.",
        unreadable="Запись не удалось прочитать. Подробности (на английском): {message}",
    ),
}
"""Language -> texts."""

LANGUAGE_NAMES = {"en": "English", "ru": "Русский"}
