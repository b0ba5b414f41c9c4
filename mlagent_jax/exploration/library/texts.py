"""Vectorizers of texts."""

from mlagent_jax.exploration.library.recipe import Recipe, frame, prepare


def _words(family: str, text: str, name: str, arguments: str) -> Recipe:
  expression = f'{name}({arguments})'
  return prepare(
    family, text, 'feature_extraction.text', name, expression, needs='text'
  )


def _cleaned(family: str, text: str, change: str) -> Recipe:
  value = "{rows}['{text}']" + change
  return frame(family, text, value, needs='text')


TEXTS: tuple[Recipe, ...] = (
  _words(
    'tfidf', 'Weight words by TF-IDF.', 'TfidfVectorizer', 'sublinear_tf=True'
  ),
  _words(
    'tfidf',
    'Weight frequent words by TF-IDF and forget rare ones.',
    'TfidfVectorizer',
    'min_df=3',
  ),
  _words(
    'vocabulary-size',
    'Count 2000 words.',
    'CountVectorizer',
    'max_features=2000',
  ),
  _words(
    'vocabulary-size', 'Count 500 words.', 'CountVectorizer', 'max_features=500'
  ),
  _words('vocabulary-size', 'Count all words.', 'CountVectorizer', ''),
  _words(
    'word-pairs',
    'Count pairs of words too.',
    'CountVectorizer',
    'ngram_range=(1, 2), max_features=5000',
  ),
  _words(
    'word-pairs',
    'Weight words and pairs of words by TF-IDF.',
    'TfidfVectorizer',
    'ngram_range=(1, 2), sublinear_tf=True',
  ),
  _words(
    'characters',
    'Weight character sequences by TF-IDF.',
    'TfidfVectorizer',
    "analyzer='char_wb', ngram_range=(2, 5), sublinear_tf=True",
  ),
  _words(
    'characters',
    'Count single characters.',
    'CountVectorizer',
    "analyzer='char'",
  ),
  _words(
    'hashing',
    'Hash words into columns.',
    'HashingVectorizer',
    'n_features=4096',
  ),
  _words(
    'presence',
    'Note the presence of words, not their number.',
    'CountVectorizer',
    'binary=True, max_features=2000',
  ),
  _words(
    'stop-words',
    'Leave out English stop words.',
    'CountVectorizer',
    "stop_words='english', max_features=1000",
  ),
  _words(
    'stop-words',
    'Leave out words that most texts have.',
    'CountVectorizer',
    'max_df=0.2, max_features=1000',
  ),
  _words(
    'letter-case',
    'Keep capital letters apart.',
    'CountVectorizer',
    'lowercase=False, max_features=2000',
  ),
  _words(
    'accents',
    'Strip accents before counting.',
    'CountVectorizer',
    "strip_accents='unicode', max_features=2000",
  ),
  _words(
    'token-pattern',
    'Count punctuation and emoticons as words.',
    'TfidfVectorizer',
    r"token_pattern=r'\w+|[^\w\s]+', sublinear_tf=True",
  ),
  _words(
    'token-pattern',
    'Split texts at spaces only.',
    'TfidfVectorizer',
    r"token_pattern=r'\S+'",
  ),
  _words(
    'long-phrases',
    'Count phrases of three words only.',
    'CountVectorizer',
    'ngram_range=(3, 3), max_features=1000',
  ),
  _words(
    'plain-frequencies',
    'Use frequencies of words without inverse document weights.',
    'TfidfVectorizer',
    'use_idf=False',
  ),
  _words(
    'row-normalisation',
    'Make word weights of a text add up to one.',
    'TfidfVectorizer',
    "norm='l1'",
  ),
  _words(
    'characters',
    'Count sequences of three characters.',
    'CountVectorizer',
    "analyzer='char', ngram_range=(3, 3), max_features=4000",
  ),
  _words(
    'stemming',
    'Cut words to their first five letters.',
    'TfidfVectorizer',
    r"token_pattern=r'\b\w{1,5}'",
  ),
  _words(
    'word-length',
    'Count only words of six letters and more.',
    'CountVectorizer',
    r"token_pattern=r'\b\w{6,}\b'",
  ),
  _words(
    'hashtags',
    'Count only hashtags.',
    'CountVectorizer',
    r"token_pattern=r'#\w+'",
  ),
  _words(
    'punctuation',
    'Count only marks of punctuation.',
    'CountVectorizer',
    r"token_pattern=r'[^\w\s]+'",
  ),
  _words(
    'capitals',
    'Count only words in capitals.',
    'CountVectorizer',
    r"token_pattern=r'\b[A-Z]+\b', lowercase=False",
  ),
  _words(
    'rare-words',
    'Count only words that fewer than ten texts have.',
    'CountVectorizer',
    'max_df=9',
  ),
  _cleaned(
    'names',
    'Remove names that begin with an at sign.',
    r".str.replace(r'@\w+', '', regex=True)",
  ),
  _cleaned(
    'links',
    'Remove links.',
    r".str.replace(r'http\S+', '', regex=True)",
  ),
  _cleaned(
    'digits',
    'Replace digits by a placeholder.',
    r".str.replace(r'\d+', 'number', regex=True)",
  ),
  _cleaned(
    'repeated-letters',
    'Shorten letters that are repeated.',
    r".str.replace(r'(.)\1{2,}', r'\1\1', regex=True)",
  ),
  _cleaned(
    'negation',
    'Join negations with the word that follows.',
    r""".str.replace(r"(not|n't) (\w+)", r'\1_\2', regex=True)""",
  ),
  _cleaned(
    'emoticons',
    'Spell smiling and sad faces out.',
    ".str.replace(':)', ' smiling ').str.replace(':(', ' sad ')",
  ),
  _cleaned(
    'exclamation',
    'Spell exclamation marks out.',
    ".str.replace('!', ' exclaimed ')",
  ),
  _cleaned(
    'beginnings',
    'Read the first half of the letters only.',
    '.str.slice(0, 70)',
  ),
  _cleaned(
    'endings',
    'Read the last letters only.',
    '.str.slice(-50)',
  ),
  _cleaned(
    'reversal',
    'Read texts backwards.',
    '.str.slice(step=-1)',
  ),
  _cleaned(
    'word-forms',
    'Strip plural endings.',
    r".str.replace(r's\b', '', regex=True)",
  ),
  _cleaned(
    'punctuation',
    'Put spaces around marks of punctuation.',
    r".str.replace(r'([^\w\s])', r' \1 ', regex=True)",
  ),
  _cleaned('letter-case', 'Fold letter cases.', '.str.casefold()'),
)
