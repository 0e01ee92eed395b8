"""A fine-tuning script as people write them for the reference library; the test changes its one import."""

import sys

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

checkpoint, output_dir = sys.argv[1:3]
texts = [
    "A wonderful film, warm and funny from the first scene to the last.",
    "Dull, predictable and far too long.",
    "I laughed, I cried, I would watch it again tomorrow.",
    "The plot makes no sense and the acting is worse.",
    "One of the finest performances of the year.",
    "A waste of two hours and of a good cast.",
    "Beautifully shot, cleverly written, simply great.",
    "It bored me to tears.",
] * 4
labels = torch.tensor([1, 0] * 16)

tokenizer = AutoTokenizer.from_pretrained(checkpoint)
model = AutoModelForSequenceClassification.from_pretrained(
    checkpoint, num_labels=2, output_attentions=False, output_hidden_states=False
)
torch.manual_seed(42)

# freeze the embeddings and the lower layers, put a new classifier on top
for parameter in model.bert.embeddings.parameters():
    parameter.requires_grad = False
for layer in model.bert.encoder.layer[:3]:
    for parameter in layer.parameters():
        parameter.requires_grad = False
model.classifier = torch.nn.Linear(model.config.hidden_size, 2)

encoded = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
dataset = TensorDataset(encoded["input_ids"], encoded["attention_mask"], labels)
loader = DataLoader(dataset, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))

no_decay = ["bias", "LayerNorm.weight"]
groups = [
    {"params": [p for n, p in model.named_parameters() if not any(nd in n for nd in no_decay)], "weight_decay": 0.01},
    {"params": [p for n, p in model.named_parameters() if any(nd in n for nd in no_decay)], "weight_decay": 0.0},
]
print("decayed", sum(p.numel() for p in groups[0]["params"]))
optimizer = AdamW(groups, lr=5e-4, eps=1e-8)
epochs = 3
scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=2, num_training_steps=epochs * len(loader))

device = torch.device("cpu")
model.to(device)
for _ in range(epochs):
    model.train()
    for batch in loader:
        b_ids, b_mask, b_labels = (t.to(device) for t in batch)
        model.zero_grad()
        outputs = model(b_ids, token_type_ids=None, attention_mask=b_mask, labels=b_labels)
        loss = outputs[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        print("loss", loss.item(), scheduler.get_last_lr()[0])

model.save_pretrained(output_dir)
tokenizer.save_pretrained(output_dir)

model = AutoModelForSequenceClassification.from_pretrained(output_dir)
tokenizer = AutoTokenizer.from_pretrained(output_dir)
model.eval()
with torch.no_grad():
    logits = model(
        **tokenizer(["What a great, funny film!", "Boring and stupid."], padding=True, return_tensors="pt")
    ).logits
for row in logits:
    print("logits", row[0].item(), row[1].item())
print("predictions", *[model.config.id2label[i] for i in logits.argmax(-1).tolist()])
