import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MinMaxScaler

train = pd.read_csv('data/train.csv')
test = pd.read_csv('data/test.csv')
y = train['species']

columns = ['area', 'aspect_ratio', 'circularity', 'mean_green_val']
scaler = MinMaxScaler()
x = scaler.fit_transform(train[columns])
x_test = scaler.transform(test[columns])

model = LogisticRegression(C=10.0)
model.fit(x, y)
predictions = model.predict_proba(x_test)

submission = pd.read_csv('data/sample_submission.csv')
submission[submission.columns[1:]] = predictions
submission.to_csv('submission.csv', index=False)
