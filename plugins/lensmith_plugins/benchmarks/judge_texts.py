"""What judges are told, word for word: a score depends on it.

The rules of LLaVA-Bench and of the pairwise comparison are those of LLaVA (Apache-2.0), the table of MM-Vet is that of
its evaluator (Apache-2.0), the question about options is that of VLMEvalKit (Apache-2.0, January 2024).
"""

from __future__ import annotations

CHECKER = "You are a helpful and precise assistant for checking the quality of the answer."

RULE_LLAVA_BENCH = (
    "We would like to request your feedback on the performance of two AI assistants in response to the "
    "user question displayed above. The user asks the question on observing an image. For your "
    "reference, the visual content in the image is represented with a few sentences describing the image. \n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each "
    "assistant receives an overall score on a scale of 1 to 10, where a higher score indicates better "
    "overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for Assistant 1 "
    "and 2, respectively. The two scores are separated by a space.\n"
    "In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any "
    "potential bias and ensuring that the order in which the responses were presented does not affect "
    "your judgment."
)

RULE_CODING = (
    "Your task is to evaluate the coding abilities of the above two assistants. They have been asked to "
    "implement a program to solve a given problem. Please review their code submissions, paying close "
    "attention to their problem-solving approach, code structure, readability, and the inclusion of "
    "helpful comments.\n"
    "\n"
    "Please ensure that the assistants' submissions:\n"
    "\n"
    "1. Correctly implement the given problem statement.\n"
    "2. Contain accurate and efficient code.\n"
    "3. Include clear and concise comments that explain the code's logic and functionality.\n"
    "4. Adhere to proper coding standards and best practices.\n"
    "\n"
    "Once you have carefully reviewed both submissions, provide detailed feedback on their strengths and "
    "weaknesses, along with any suggestions for improvement. You should first output a single line "
    "containing two scores on the scale of 1-10 (1: no code/no sense; 10: perfect) for Assistant 1 and "
    "2, respectively. Then give extra comments starting from the next line."
)

RULE_MATH = (
    "We would like to request your feedback on the mathematical proficiency of two AI assistants "
    "regarding the given user question.\n"
    "Firstly, please solve the problem independently, without referring to the answers provided by "
    "Assistant 1 and Assistant 2.\n"
    "Afterward, please examine the problem-solving process of Assistant 1 and Assistant 2 step-by-step "
    "to ensure their correctness, identifying any incorrect steps if present. Your evaluation should "
    "take into account not only the answer but also the problem-solving steps.\n"
    "Finally, please output a Python tuple containing two numerical scores for Assistant 1 and Assistant "
    "2, ranging from 1 to 10, respectively. If applicable, explain the reasons for any variations in "
    "their scores and determine which assistant performed better."
)

RULE_DEFAULT = (
    "We would like to request your feedback on the performance of two AI assistants in response to the "
    "user question displayed above.\n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each "
    "assistant receives an overall score on a scale of 1 to 10, where a higher score indicates better "
    "overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for Assistant 1 "
    "and 2, respectively. The two scores are separated by a space.\n"
    "In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any "
    "potential bias and ensuring that the order in which the responses were presented does not affect "
    "your judgment."
)

MM_VET = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the "
    "prediction. <AND> in the ground truth means it is totally right only when all elements in the "
    "ground truth are present in the prediction, and <OR> means it is totally right when any one element "
    "in the ground truth is present in the prediction. The correctness score is 0.0 (totally wrong), "
    "0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just complete the last space "
    "of the correctness score.\n"
    "\n"
    "Question | Ground truth | Prediction | Correctness\n"
    "--- | --- | --- | ---\n"
    "What is x in the equation? | -1 <AND> -5 | x = 3 | 0.0\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n"
    "What is x in the equation? | -1 <AND> -5 | x = -1 or x = -5 | 1.0\n"
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries "
    "Iceland and Greenland are misleading. Despite its name, Iceland is known for its beautiful green "
    "landscapes, while Greenland is mostly covered in ice and snow. The meme is saying that the person "
    "has trust issues because the names of these countries do not accurately represent their landscapes. "
    "| The meme talks about Iceland and Greenland. It's pointing out that despite their names, Iceland "
    "is not very icy and Greenland isn't very green. | 0.4\n"
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries "
    "Iceland and Greenland are misleading. Despite its name, Iceland is known for its beautiful green "
    "landscapes, while Greenland is mostly covered in ice and snow. The meme is saying that the person "
    "has trust issues because the names of these countries do not accurately represent their landscapes. "
    "| The meme is using humor to point out the misleading nature of Iceland's and Greenland's names. "
    "Iceland, despite its name, has lush green landscapes while Greenland is mostly covered in ice and "
    "snow. The text 'This is why I have trust issues' is a playful way to suggest that these "
    "contradictions can lead to distrust or confusion. The humor in this meme is derived from the "
    "unexpected contrast between the names of the countries and their actual physical characteristics. | 1.0\n"
)
MM_VET_AGAIN = "\nPredict the correctness of the answer (digit): "

OPTION_JUDGE = (
    "You are an AI assistant who will help me to match an answer with several options of a single-choice "
    "question. You are provided with a question, several options, and an answer, and you need to find "
    "which option is most similar to the answer. If the meaning of all options are significantly "
    "different from the answer, output Z. Your should output a single uppercase character in A, B, C, D "
    "(if they are valid options), and Z. \n"
    "Example 1: \n"
    "Question: What is the main object in image?\n"
    "Options: A. teddy bear B. rabbit C. cat D. dog\n"
    "Answer: a cute teddy bear\n"
    "Your output: A\n"
    "Example 2: \n"
    "Question: What is the main object in image?\n"
    "Options: A. teddy bear B. rabbit C. cat D. dog\n"
    "Answer: Spider\n"
    "Your output: Z\n"
    "Example 3: \n"
    "Question: {question}?\n"
    "Options: {options}\n"
    "Answer: {reply}\n"
    "Your output: "
)

OPTION_JUDGE_CN = (
    "你是一个帮助我匹配答案与单选题中多个选项的 AI 助手。你会被提供：一个问题，多个选项，一个答案。你的任"
    "务是找到与答案意义最相近的选项。如果所有选项的意义都与答案显著不同，则输出 "
    "Z。你应该输出一个单个的大写字母，例如 A, B, C, D（如果它们是有效选项），或 Z。例 1:问题: 图中最主要的"
    "物体是什么?\n"
    "选项: A. 泰迪熊 B. 兔子 C. 猫 D. 狗\n"
    "答案: 一只可爱的泰迪熊\n"
    "输出: A\n"
    "例 2: \n"
    "问题: 图中最主要的物体是什么?\n"
    "选项: A. 泰迪熊 B. 兔子 C. 猫 D. 狗\n"
    "答案: 蜘蛛\n"
    "输出: Z\n"
    "例 3: \n"
    "问题: {question}?\n"
    "选项: {options}\n"
    "答案: {reply}\n"
    "输出: "
)
