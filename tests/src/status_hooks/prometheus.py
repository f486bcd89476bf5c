import json, sys, time
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

def ask(query):
    """The samples that Prometheus has for this: labels and value."""
    answer = json.load(urlopen('http://127.0.0.1:9090/api/v1/query?' + urlencode({'query': query})))
    assert answer['status'] == 'success', answer
    result = answer['data']['result']
    return [[{}, result[1]]] if answer['data']['resultType'] == 'scalar' else \
        [[sample['metric'], sample['value'][1]] for sample in result]

def until(holds):
    """Waits for what the test's deadline bounds."""
    while True:
        try:
            if holds():
                return
        except (URLError, ConnectionError):
            pass
        time.sleep(0.2)

# Two scrapes: from then on there are rates.
until(lambda: [value for _, value in ask('count_over_time(up{job="slice"}[5m]) >= 2 and up == 1')])
print(json.dumps([ask(query) for query in json.loads(sys.argv[1])]))
