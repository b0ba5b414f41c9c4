import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MinMaxScaler

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['class']

columns = ['compounds', 'input_fields', 'iterations']
scaler = MinMaxScaler()
x = scaler.fit_transform(train[columns])
x_test = scaler.transform(test[columns])

model = LogisticRegression(C=1.0)
model.fit(x, y)
predictions = model.predict(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission['class'] = predictions
submission.to_csv('submission.csv', index=False)
