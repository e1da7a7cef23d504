"""Small tokenizers by the conventions of the large ones."""


class Tokenizer:
    """Has what the tokenizers of Hugging Face have; an id is a place in a list of tokens."""

    def __init__(self, tokens: list[str], special: tuple[str, ...] = (), **named: str) -> None:
        self.tokens = tokens
        self.all_special_ids = [tokens.index(token) for token in special]
        for name, token in named.items():
            setattr(self, f"{name}_token_id", tokens.index(token))

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.tokens[one] for one in ids]

    def __call__(self, text: str) -> list[int]:
        return [self.tokens.index(token) for token in text.split()]


WORD_PIECE = Tokenizer(
    ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "the", "play", "##ing", "##ed", "dog", "##s", ",", "a"],
    ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"),
    pad="[PAD]",
    mask="[MASK]",
    unk="[UNK]",
)
BYTE_LEVEL = Tokenizer(["<eos>", "The", "Ġplay", "ing", "Ġdog", "s", ",", "Ġthe", "Ġ"], ("<eos>",), unk="<eos>")
SENTENCE_PIECE = Tokenizer(
    ["<s>", "</s>", "<pad>", "▁The", "▁play", "ing", "▁dog", "s", ","], ("<s>", "</s>", "<pad>"), pad="<pad>"
)
SUFFIX = Tokenizer(["<pad>", "play", "ing</w>", "dog</w>", "the</w>", ",</w>"], ("<pad>",), pad="<pad>")
